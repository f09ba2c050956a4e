"""The detectors in their order: from a change of state to the events that rules see.

Facts come first (what a record says by itself), then what detectors make of bytes and of
behaviour. A detector is one class whose `handlers` say what it makes of which records; the next one
gets its line in `Chain`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from agentwatch.detect import files, privileged
from agentwatch.detect.applications import Applications
from agentwatch.detect.beacons import Beacons
from agentwatch.detect.exfiltration import Exfiltration
from agentwatch.detect.flow_shape import FlowShapes
from agentwatch.detect.fork_storm import ForkStorms
from agentwatch.detect.gpu import GpuWork
from agentwatch.detect.handler import Handler
from agentwatch.detect.names import Names
from agentwatch.detect.relay import Relays
from agentwatch.detect.request import Requests
from agentwatch.detect.scans import ScanDetector
from agentwatch.detect.self_replication import SelfReplication
from agentwatch.detect.shells import Shells
from agentwatch.detect.tunnels import Tunnels
from agentwatch.enrich.facts import Facts
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State


class Detector(Protocol):
    """Turns changes of some types into events. Looks at nothing but the change and its own past."""

    handlers: dict[int, Handler]
    """By the type of the record: what gives the events that a change leads to."""


_NAMED = frozenset(("dns_query", "flow", "network_connection", "network_behaviour"))
"""Categories whose events tell names from DNS."""

_JOINED = frozenset(("flow", "process_behaviour"))
"""Categories of the events about flows and the programs joined to them."""


class Chain:
    """Facts and detectors, one after the other. Categories that no rule wants cost nothing."""

    def __init__(self, state: State, wanted: Collection[str], requests: Requests) -> None:
        self._state = state
        self._names = Names(state)
        # Flows are recognised whether or not a rule asks: views and reports show protocols.
        tunnels = Tunnels(state, requests)
        self._always: tuple[Detector, ...] = (Applications(state, tunnels), tunnels)
        self._joined: tuple[Detector, ...] = (Shells(state, requests), Relays(state, requests))
        self._behaviours: tuple[tuple[str, Detector], ...] = (
            ("network_behaviour", ScanDetector(state)),
            ("network_behaviour", Exfiltration(state)),
            ("network_behaviour", FlowShapes(state)),
            ("network_behaviour", Beacons(state)),
            ("process_behaviour", ForkStorms(state)),
            ("process_behaviour", SelfReplication(state)),
            ("gpu", GpuWork(state)),
        )
        self.want(wanted)

    def want(self, wanted: Collection[str]) -> None:
        """Other rules look at other categories. What the detectors know stays known."""
        self._facts = Facts(self._state, wanted)
        detectors: list[Detector] = [*self._always]
        detectors += (detector for category, detector in self._behaviours if category in wanted)
        if not _NAMED.isdisjoint(wanted):
            detectors.insert(0, self._names)
        if not files.CATEGORIES.isdisjoint(wanted):
            detectors.append(files.Files(self._state, wanted))
        if not privileged.CATEGORIES.isdisjoint(wanted):
            detectors.append(privileged.Privileged(self._state, wanted))
        if not _JOINED.isdisjoint(wanted):
            detectors += self._joined
        self._of_facts = self._facts.types
        self._by_type = {
            number: [detector.handlers[number] for detector in detectors if number in detector.handlers]
            for number in self._of_facts.union(*(detector.handlers for detector in detectors))
        }

    def of(self, change: Change) -> list[Sighting]:
        """All events of a change, in a fixed order."""
        number = change.type
        sightings: list[Sighting] = []
        handlers = self._by_type.get(number)
        if handlers is None:
            return sightings
        if number in self._of_facts:
            fact = self._facts.of(change)
            if fact is not None:
                sightings.append(fact)
        for handle in handlers:
            found = handle(change)
            if found:
                sightings += found
        return sightings
