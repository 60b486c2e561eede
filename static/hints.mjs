/** How to make a key appear from a terminal, per store: what an empty table has to teach. `{origin}` is this server. */

export const TITLES = { postgres: "PostgreSQL", mongo: "MongoDB", redis: "Redis", weather: "Weather" };

const LINES = {
  redis: [
    "redis-cli SET sensors:7 22.0",
    `curl -X PUT {origin}/v1/redis/sensors/7 -d '{"temp": 22.0}'`,
  ],
  mongo: [
    `mongosh --eval 'db.catalog.insertOne({_id: "espresso", price: 2.2})'`,
    `curl -X PUT {origin}/v1/mongo/catalog/espresso -d '{"price": 2.2}'`,
  ],
  postgres: [
    `psql -c "INSERT INTO entries (slug, title) VALUES ('first', 'Hello')"`,
    `curl {origin}/v1/postgres/entries -d '{"slug": "second", "title": "Hello"}'`,
  ],
};

/** Shell lines, each of which makes a key; none for a store that only reads. */
export function linesFor(store) {
  return (LINES[store] ?? []).map((line) => line.replace("{origin}", location.origin));
}
