"""What can be asked for. Each field checks its arguments, loads, and presents; how things relate is told in `context`."""

from typing import Annotated

import strawberry
from strawberry import UNSET

from db import agents as agent_rows
from db import conversations as conversation_rows
from resolvers import presenters
from resolvers.arguments import BadUserInput, well_formed
from resolvers.connections import agents_scope, connection_of, conversations_scope, window_of
from resolvers.context import RequestContext, found
from resolvers.loaders import Of
from schema.agents import Agent, AgentConnection
from schema.connections import After, Before, First, Last, PageArguments
from schema.conversations import Conversation, ConversationConnection, ConversationFilter, ConversationOrder
from schema.enums import ConversationOrderField, OrderDirection
from schema.models import Model
from schema.nodes import Node
from schema.runs import Run
from schema.server import ServerInfo, Viewer
from schema.tools import Tool
from vocabulary.ids import Noun

Info = strawberry.Info[RequestContext, None]
AnyId = Annotated[strawberry.ID, strawberry.argument(description="The id of anything that is a node.")]
