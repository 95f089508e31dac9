// The list of conversations: paged, refetched, prepended to, and kept up to date by its feed.

graphql`
  query sidebarQuery($search: ConversationFilter) {
    ...sidebar_list @arguments(filter: $search)
  }
`;

graphql`
  fragment sidebar_list on Query
  @argumentDefinitions(
    first: { type: "Int", defaultValue: 30 }
    after: { type: "String" }
    filter: { type: "ConversationFilter" }
  )
  @refetchable(queryName: "sidebarPaginationQuery") {
    conversations(first: $first, after: $after, filter: $filter) @connection(key: "sidebar_conversations") {
      edges {
        node {
          id
          ...sidebar_row
        }
      }
    }
  }
`;

graphql`
  fragment sidebar_row on Conversation @refetchable(queryName: "sidebarRowQuery") {
    summary
    status
    lastMessageAt
    agent {
      name
    }
  }
`;

graphql`
  fragment sidebar_agent on Agent
  @argumentDefinitions(last: { type: "Int", defaultValue: 10 }, before: { type: "String" })
  @refetchable(queryName: "sidebarAgentPaginationQuery") {
    name
    conversations(last: $last, before: $before) @connection(key: "sidebarAgent_conversations") {
      edges {
        node {
          ...sidebar_row
        }
      }
    }
  }
`;

graphql`
  query sidebarAgentsQuery($first: Int!, $after: String) {
    agents(first: $first, after: $after) @connection(key: "sidebar_agents") {
      edges {
        node {
          id
          ...sidebar_agent
        }
      }
    }
  }
`;

graphql`
  mutation sidebarCreateAgentMutation($input: CreateAgentInput!, $connections: [ID!]!) {
    createAgent(input: $input) {
      agentEdge @prependEdge(connections: $connections) {
        cursor
        node {
          ...sidebar_agent
        }
      }
    }
  }
`;

graphql`
  mutation sidebarCreateConversationMutation($input: CreateConversationInput!, $connections: [ID!]!) {
    createConversation(input: $input) {
      conversationEdge @prependEdge(connections: $connections) {
        cursor
        node {
          ...sidebar_row
        }
      }
    }
  }
`;

graphql`
  subscription sidebarSubscription($agentId: ID) {
    conversationListEvents(agentId: $agentId) {
      kind
      conversationId
      conversation {
        ...sidebar_row
      }
    }
  }
`;
