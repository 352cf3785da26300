"""The monitor: a web page and its API over one home.

It reads the database, read-only, a connection for each request; one thread takes in what live runs have recorded
(`live`); what people do goes through `runner.api`. Everything passes the guard first (`guard`): host, token, origin.
Completions are hostile text: the API gives them as JSON strings, never as HTML.
"""
