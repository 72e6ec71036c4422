// Posts, polls and commits with Node's own fetch; prints what it was told as one JSON value.
const base = process.argv[2];
const json = { "Content-Type": "application/json" };

async function tell(method, path, body, headers = json) {
  const answer = await fetch(base + path, { method, headers, body });
  const text = await answer.text();
  const type = answer.headers.get("content-type");
  return { status: answer.status, durability: answer.headers.get("x-flashq-durability"), type, text };
}

const records = [{ value: "grüße 🙂", key: "k", headers: { h: "1" } }, { value: "" }];
const told = {
  posted: await tell("POST", "/topics/fetch/records", JSON.stringify({ records })),
  lines: await tell("POST", "/topics/fetch/records", '{"value":"a"}\n{"value":"b"}\n', {
    "Content-Type": "application/x-ndjson",
  }),
  polled: await tell("GET", "/topics/fetch/records"),
  exported: await tell("GET", "/topics/fetch/records", undefined, { Accept: "application/x-ndjson" }),
  group: await tell("POST", "/consumer/g"),
  committed: await tell("POST", "/consumer/g/topics/fetch/offset", JSON.stringify({ offset: 3 })),
  resumed: await tell("GET", "/consumer/g/topics/fetch"),
  refused: await tell("POST", "/topics/fetch/records", "{"),
};
console.log(JSON.stringify(told));
