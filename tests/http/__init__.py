# ruff: noqa: A005 -- tests are imported as tests.http, never as http
