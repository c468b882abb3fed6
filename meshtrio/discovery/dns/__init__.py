"""Endpoints from DNS: `dns:///host:port` and `dns+srv:///name` in the tables of a config.

Theory of operation
-------------------
`DnsDiscovery` has one task for each name of each `[[service]]` table. The task waits until its
`LookupSchedule` says so, looks the name up, and writes the difference to the registry.

    schedule     when to look up next: pure
    answers      what an answer means for the endpoints of a table: pure
    lookup       the queries of one lookup
    client       one query, by dnspython; resolv.conf
    query_limiter
                 the queries of all names together
    watch        one name of one table: its lookups, its endpoints, its log
    discovery    the tasks, and the config that starts and ends them
    name_resolver
                 one name without a mesh, for `connect_to`

Invariants:

- A lookup that fails (no such name, no answer, an error, or an answer without addresses) changes no
  endpoint: what is known stays. Only an answer that has addresses removes others.
- An address that stays in the answers stays the same endpoint, with the same id, so that its
  connections stay. A new weight or priority changes the endpoint in place.
- An address that returns after it was removed is a new endpoint, since ids are never used again.
- The service is managed from the start: callers wait for the first answer.
- A name is looked up at least every `MAX_TTL` and at most every `MIN_TTL` seconds; a failed
  connection makes the next lookup earlier, within these bounds. All names together are limited to a
  number of queries per second, and a name to a number of endpoints.
"""
