"""Metrics of the names that a mesh looks up in DNS. Labels are bounded by the config."""

from __future__ import annotations

from collections import defaultdict

import trio

from meshtrio.discovery.dns.answers import FailureKind
from meshtrio.discovery.dns.discovery import DnsDiscovery
from meshtrio.discovery.dns.watch import DnsWatch
from meshtrio.telemetry.metric_families import Labels, MetricFamily


def collect_dns_metrics(dns: DnsDiscovery) -> list[MetricFamily]:
    """Return all families, as of now; without points if nothing is looked up."""
    text = "Lookups of the names of a service in DNS."
    lookups = MetricFamily.counter("mesh.dns.lookups", "{lookup}", text)
    text = "Lookups that found no addresses, by reason."
    failures = MetricFamily.counter("mesh.dns.failures", "{lookup}", text)
    text = "Time since the last answer that had addresses."
    ages = MetricFamily.gauge("mesh.dns.answer.age", "s", text)
    text = "Endpoints that the name has now."
    endpoints = MetricFamily.gauge("mesh.dns.endpoints", "{endpoint}", text)
    by_name = defaultdict[Labels, list[DnsWatch]](list)
    for watch in dns.watches:
        by_name[("service", watch.key.service), ("target", str(watch.key.target))].append(watch)
    now = trio.current_time()
    for labels, watches in by_name.items():
        lookups.add(labels, sum(each.lookups for each in watches))
        for kind in FailureKind:
            count = sum(each.failures[kind] for each in watches)
            failures.add((*labels, ("reason", kind.value)), count)
        answered = [each.answered_at for each in watches if each.answered_at is not None]
        if answered:
            ages.add(labels, now - max(answered))
        endpoints.add(labels, sum(len(each.endpoints) for each in watches))
    return [lookups, failures, ages, endpoints]
