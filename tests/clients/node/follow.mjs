// Follows a stream with the `eventsource` package: prints "open", then each event as a line of JSON, until it has seen
// `count` of them. The package reconnects by itself, with Last-Event-ID.
import { EventSource } from "eventsource";

const [url, count] = [process.argv[2], Number(process.argv[3])];
const source = new EventSource(url);
let seen = 0;
source.addEventListener("open", () => console.log(JSON.stringify({ open: true })));
source.addEventListener("message", (event) => {
  console.log(JSON.stringify({ id: event.lastEventId, record: JSON.parse(event.data) }));
  if (++seen === count) {
    source.close();
  }
});
