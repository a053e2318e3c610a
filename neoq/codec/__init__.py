"""The codec: compresses and seals what jobs carry, between the engine and the store."""

from __future__ import annotations

from neoq.store import Store


def with_codec(store: Store) -> Store:
    """A store, behind one that codes what jobs carry where its settings have a codec."""
    if store.config.codec is None:
        return store
    from neoq.codec.store import CodedStore  # on demand: most programs have none

    return CodedStore(store, store.config.codec)
