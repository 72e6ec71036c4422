-- One record of about 100 bytes a request.
wrk.method = "POST"
wrk.body = '{"records":[{"key":"user123","value":"Hello, World! this is a record of about a hundred bytes of payload, padded ......"}]}'
wrk.headers["Content-Type"] = "application/json"
