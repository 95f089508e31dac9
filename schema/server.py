"""The server itself and who is talking to it."""

import strawberry


@strawberry.type(description="Who is asking.")
class Viewer:
    actor: str = strawberry.field(description="The person or program.")
    tenant: str = strawberry.field(description="Whose agents and conversations are visible.")


@strawberry.type(description="What a client may want to know about this server.")
class ServerInfo:
    version: str = strawberry.field(description="The version that is running.")
    max_page_size: int = strawberry.field(description="The most that `first` and `last` may ask for.")
    max_subscriptions_per_connection: int = strawberry.field(description="How many operations one socket may have open.")
    max_replay: int = strawberry.field(description="How many events are replayed at most before a stream is reset instead.")
    delta_retention_seconds: int = strawberry.field(description="For how long single deltas of a complete message are kept.")
