"""What everything that has an id of its own has in common."""

import strawberry


@strawberry.interface(description="An object that can be fetched again by its id.")
class Node:
    id: strawberry.ID = strawberry.field(description="Globally unique and opaque; give it to `node`.")
