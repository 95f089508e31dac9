// Conversations and agents are changed, copied, taken out of every list and out of the store.

graphql`
  mutation organizingRenameMutation($input: UpdateConversationInput!) {
    updateConversation(input: $input) {
      conversation {
        ...sidebar_row
      }
    }
  }
`;

graphql`
  mutation organizingForkMutation($input: ForkConversationInput!, $connections: [ID!]!) {
    forkConversation(input: $input) {
      conversationEdge @prependEdge(connections: $connections) {
        cursor
        node {
          ...sidebar_row
          forkedFrom {
            id
          }
        }
      }
    }
  }
`;

graphql`
  mutation organizingDeleteConversationMutation($input: DeleteConversationInput!, $connections: [ID!]!) {
    deleteConversation(input: $input) {
      deletedConversationId @deleteEdge(connections: $connections) @deleteRecord
    }
  }
`;

graphql`
  mutation organizingDeleteAgentMutation($input: DeleteAgentInput!, $connections: [ID!]!) {
    deleteAgent(input: $input) {
      deletedAgentId @deleteEdge(connections: $connections) @deleteRecord
    }
  }
`;

graphql`
  mutation organizingUpdateBlockMutation($input: UpdateBlockInput!) {
    updateBlock(input: $input) {
      block {
        ...chat_block
      }
    }
  }
`;
