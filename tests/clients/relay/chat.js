// One conversation: its history from the end, its queue, what is sent to it and what happens in it.

graphql`
  query chatQuery($id: ID!) {
    conversation(id: $id) {
      headSequence
      ...chat_history
      ...chat_queue
    }
    node(id: $id) {
      ...chat_history @alias
    }
  }
`;

graphql`
  fragment chat_history on Conversation
  @argumentDefinitions(
    last: { type: "Int", defaultValue: 50 }
    before: { type: "String" }
    filter: { type: "MessageFilter" }
  )
  @refetchable(queryName: "chatHistoryPaginationQuery") {
    messages(last: $last, before: $before, filter: $filter) @connection(key: "chat_messages", filters: ["filter"]) {
      edges {
        node {
          id
          ...chat_message
        }
      }
    }
  }
`;

graphql`
  fragment chat_queue on Conversation
  @argumentDefinitions(first: { type: "Int", defaultValue: 20 }, after: { type: "String" })
  @refetchable(queryName: "chatQueuePaginationQuery") {
    runs(first: $first, after: $after, statuses: [QUEUED]) @connection(key: "chat_runs") {
      edges {
        node {
          ...chat_run
        }
      }
    }
  }
`;

graphql`
  fragment chat_message on Message @refetchable(queryName: "chatMessageQuery") {
    __typename
    ordinal
    status
    text
    run {
      status
    }
    ... on UserMessage {
      content {
        ... on TextPart {
          text
        }
        ... on ImagePart {
          url
        }
      }
    }
    ... on ToolCallMessage {
      toolCalls {
        id
        state
        argumentsText
      }
    }
  }
`;

graphql`
  fragment chat_run on Run
  @argumentDefinitions(first: { type: "Int", defaultValue: 10 }, after: { type: "String" })
  @refetchable(queryName: "chatRunQuery") {
    status
    stopReason
    messages(first: $first, after: $after) @connection(key: "chatRun_messages") {
      edges {
        node {
          ...chat_message
        }
      }
    }
  }
`;

graphql`
  fragment chat_block on Block @refetchable(queryName: "chatBlockQuery") {
    label
    value
  }
`;

graphql`
  mutation chatSendMutation($input: SendMessageInput!, $connections: [ID!]!) {
    sendMessage(input: $input) {
      appliedThroughSequence
      run {
        ...chat_run
      }
      messageEdges @appendEdge(connections: $connections) {
        cursor
        node {
          ...chat_message
        }
      }
    }
  }
`;

graphql`
  subscription chatSubscription($id: ID!, $after: Int, $connections: [ID!]!) {
    conversationEvents(conversationId: $id, after: $after) {
      sequence
      previousSequence
      payload {
        __typename
        ... on MessageDelta {
          messageId
          offset
          text
          toolCallId
        }
        ... on MessageCompleted {
          messageEdge @appendEdge(connections: $connections) {
            cursor
            node {
              ...chat_message
            }
          }
        }
        ... on RunChanged {
          status
          run {
            ...chat_run
          }
        }
        ... on ConversationChanged {
          conversation {
            ...sidebar_row
          }
        }
      }
    }
  }
`;
