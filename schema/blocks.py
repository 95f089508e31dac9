"""Memory blocks."""

from datetime import datetime

import strawberry

from schema.nodes import Node


@strawberry.type(description="A piece of memory that is always part of what the model is shown.")
class Block(Node):
    label: str = strawberry.field(description="What it is about; unique within its agent.")
    value: str = strawberry.field(description="What it says.")
    description: str | None = strawberry.field(description="What it is for, as the model is told.")
    limit: int = strawberry.field(description="How many characters it may hold.")
    read_only: bool = strawberry.field(description="Whether the model may not change it.")
    isolated: bool = strawberry.field(description="Whether it belongs to one conversation and is not shared through the agent.")
    updated_at: datetime = strawberry.field(description="When it last changed.")
