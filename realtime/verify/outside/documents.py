"""MongoDB as another program's driver reaches it: whole documents, with the write concern of the service."""

from __future__ import annotations

from typing import Any

import msgspec
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError, WriteError
from pymongo.write_concern import WriteConcern

from ...errors import NotFound
from ...stores.bson_json import CODEC, Document, key_of, to_json
from ..stage import Stage
from .base import bounded

DATABASE = "realtime"  # as the service has it where the address names none

# No retries: one may be made long after the first try. Waiting for a server and for its answer ends within the bound.
_OPTIONS: dict[str, Any] = {
    "serverSelectionTimeoutMS": 1500,
    "connectTimeoutMS": 1500,
    "socketTimeoutMS": 2000,
    "retryReads": False,
    "retryWrites": False,
}
_DOUBTS = (PyMongoError,)
_REFUSALS = (WriteError,)


class Documents:
    store = "mongo"
    routes: tuple[str, ...] = ("mongosh",)
    exact = True

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._url = ""
        self._client: AsyncMongoClient[Document] | None = None

    async def open(self) -> None:
        """Connections are made when they are needed."""

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def make(self) -> None:
        """The first document makes it."""

    async def drop(self) -> None:
        async with bounded(_DOUBTS):
            await (await self._collection()).drop()

    async def put(self, key: str, value: dict[str, Any]) -> None:
        async with bounded(_DOUBTS, _REFUSALS):
            await (await self._collection()).replace_one({"_id": key}, value, upsert=True)

    async def delete(self, key: str) -> None:
        async with bounded(_DOUBTS, _REFUSALS):
            result = await (await self._collection()).delete_one({"_id": key})
        if not result.deleted_count:
            raise NotFound(f"no {key!r} in {self._stage.collection}")

    async def read(self) -> dict[str, Any]:
        async with bounded(_DOUBTS):
            documents = await (await self._collection()).find().to_list()
        shown = ((key_of(document["_id"]), document) for document in documents)
        return {key: msgspec.json.decode(to_json(document)) for key, document in shown if key is not None}

    async def _collection(self) -> AsyncCollection[Document]:
        """By a new client where the server has come back on another port: the old one would look for it for ever."""
        url, client = self._stage.urls[self.store], self._client
        if client is None or url != self._url:
            before, client = client, AsyncMongoClient(url, **_OPTIONS)
            self._client, self._url = client, url  # before anything is awaited: others come here meanwhile
            if before is not None:
                await before.close()
        name = client.get_default_database(DATABASE).name
        database = client.get_database(name, codec_options=CODEC, write_concern=WriteConcern("majority"))
        return database[self._stage.collection]
