"""The memory that one call uses, as its server counts it in the ledger of its peer."""

from __future__ import annotations

import purerpc

from meshtrio.rpc.accounts import Ledger

LITTLE = 1024
"""Bytes that a call may hold without being counted: they are part of what a call costs."""
_COPIES = 2
"""Of a reply that waits: as bytes, and as the object that they were made of."""


class CountedCall:
    """Counts in a ledger while the stream is open; on a client there is none.

    Received bytes are counted until a handler takes them, and from then on as what it works with,
    until it takes the next message or ends. What it sends is counted while the peer does not read.
    """

    __slots__ = (
        "holds_large",
        "is_reserved",
        "ledger",
        "received_charge",
        "sending_charge",
        "taken_charge",
    )

    ledger: Ledger | None
    received_charge: int
    """Bytes that wait to be taken, as they are counted."""
    taken_charge: int
    """Bytes that the handler works with."""
    sending_charge: int
    """Bytes that wait until the peer reads, or that the handler is expected to send."""
    is_reserved: bool
    """There is room for the message under way, which does not fit into the window."""
    holds_large: bool
    """Such a message has come whole and has not been taken yet."""

    def count_for(self, ledger: Ledger | None) -> None:
        """Have the call counted in another ledger than its connection's, before anything is."""
        if self.ledger is not None and ledger is not None:
            self.ledger.account.calls -= 1
            ledger.account.calls += 1
            self.ledger = ledger

    def settle_account(self) -> None:
        """The stream is gone, and nothing of it counts any more."""
        ledger, self.ledger = self.ledger, None
        if ledger is None:
            return
        ledger.account.calls -= 1
        working = self.taken_charge + self.sending_charge
        if not (working or self.received_charge or self.is_reserved or self.holds_large):
            return
        # Not only when the garbage collector finds it: a failure and its traceback are a cycle.
        self.drop_received()
        self.taken_charge = self.sending_charge = 0
        ledger.account.large -= self.is_reserved + self.holds_large
        self.is_reserved = self.holds_large = False
        ledger.account.stop_reserving(self)
        if self.received_charge:
            ledger.add_received(-self.received_charge)
        ledger.add_working(-working)
        ledger.account.offer_room()

    def count_received(self, size: int) -> str:
        """Count what waits to be taken; gives the budget that was used up by more, "" for none."""
        ledger, change = self.ledger, size - self.received_charge
        if ledger is None or not change:
            return ""
        self.received_charge = size
        ledger.add_received(change)
        return ledger.too_much_received() if change > 0 else ""

    def count_taken(self, size: int) -> None:
        """Count a message that the handler takes, until `let_go`."""
        if self.ledger is not None and size > LITTLE:
            self.taken_charge = size
            self.ledger.add_working(self.taken_charge)

    def let_go(self) -> None:
        """The handler is through with the message that it took last."""
        charge, self.taken_charge = self.taken_charge, 0
        if self.ledger is not None:
            self.ledger.add_working(-charge)

    def expect_to_send(self, size: int) -> None:
        """Count bytes that the call is going to send, instead of what was counted before."""
        change = _COPIES * size - self.sending_charge
        if self.ledger is not None and change:
            self.sending_charge += change
            self.ledger.add_working(change)

    def hold_back(self, size: int) -> None:
        """Count bytes that have to wait until the peer reads.

        Raises ResourceExhaustedError if there are too many that do, except for those of a call
        that is the only one.
        """
        ledger = self.ledger
        if ledger is None or size <= LITTLE:
            return
        self.expect_to_send(size)
        budget = ledger.too_much_work(part=1.0)
        if budget and ledger.account.working > self.sending_charge + self.taken_charge:
            self.expect_to_send(0)
            text = f"replies that the caller does not read use up {budget}"
            raise purerpc.ResourceExhaustedError(text)

    # -- large messages ----------------------------------------------------------------------

    def reserve(self, size: int) -> bool:
        """Reserve room for a message that does not fit into the window.

        If there is none, `retry_reservation` is called when there may be. The only one of a peer is
        always given room, so that it may be larger than the budget.
        """
        ledger = self.ledger
        if ledger is None or self.is_reserved:
            return True
        account = ledger.account
        if account.large and (ledger.too_much_received(size, part=0.25) or ledger.too_much_work()):
            account.wait_to_reserve(self)
            return False
        self.is_reserved = True
        account.large += 1
        return True

    def end_reservation(self) -> None:
        """The message has come whole, or the call has failed."""
        if self.ledger is not None and self.is_reserved:
            self.is_reserved = False
            self.ledger.account.large -= self.holds_large
            self.holds_large = True

    def end_holding(self) -> None:
        """All large messages that have come were taken."""
        if self.ledger is not None and self.holds_large:
            self.holds_large = False
            self.ledger.account.large -= 1
            self.ledger.account.offer_room()

    def drop_received(self) -> None:
        """Forget what no handler has taken."""
        raise NotImplementedError

    def retry_reservation(self) -> bool:
        """Go on if there is room now; false if there is not."""
        raise NotImplementedError
