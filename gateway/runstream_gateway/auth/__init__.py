"""Who calls, what they may see, and how much of it.

caller    who calls, the limits that they have, and the filter by which what they may not see is not there
guard     what the routes ask: `authenticate` and `authorize`
open      nobody is asked for anything
keys      API keys, the built-in choice
handlers  a project's own `langgraph_sdk.Auth`
tokens    read tokens for one run or thread, and the guard that takes them beside another
limits    how much a caller may do
"""
