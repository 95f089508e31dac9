"""The mutation root: the mutations of each noun stand in `resolvers/mutations/`."""

import strawberry

from resolvers.mutations.agents import AgentMutations
from resolvers.mutations.conversations import ConversationMutations
from resolvers.mutations.runs import RunMutations
from resolvers.mutations.sending import SendingMutations
from resolvers.mutations.tool_calls import ToolCallMutations


@strawberry.type(description="What can be done. Mutations of one request are done one after the other.")
class Mutation(AgentMutations, ConversationMutations, SendingMutations, ToolCallMutations, RunMutations):
    pass
