"""Webhooks: telling somebody that a run has ended.

- `resolving`: the addresses of a host
- `addresses`: whom the gateway calls at all
- `signature`: by which the receiver knows who calls
- `sharing`: who gets a place when there are only so many
- `sending`: one try
- `payload`: what is told
- `courier`: looks after all of them, in one process
"""
