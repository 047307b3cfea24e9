// The reference server of Durable Streams with its file store: node durable_streams.mjs DATA_DIR PORT
import { DurableStreamTestServer, FileBackedStreamStore } from "@durable-streams/server"

const [dataDir, port] = process.argv.slice(2)
const server = new DurableStreamTestServer({ port: Number(port), host: "127.0.0.1", compression: false })
// What `dataDir` would do, with more than 100 open files: beyond its pool, an append whose file is closed under it is
// answered with 404.
server.store = new FileBackedStreamStore({ dataDir, maxFileHandles: 16384 })
await server.start()
