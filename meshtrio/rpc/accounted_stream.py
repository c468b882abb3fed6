"""The memory that one call uses, as its server counts it in the ledger of its peer."""

from __future__ import annotations

import purerpc

from meshtrio.rpc.peer_accounts import ConnectionAccount

MIN_CHARGED_SIZE = 1024
"""Bytes that a call may hold without being counted: they are part of what a call costs."""
_COPIES_PER_REPLY = 2
"""Of a reply that waits: as bytes, and as the object that they were made of."""


class AccountedStream:
    """Counts in a ledger while the stream is open; on a client there is none.

    Received bytes are counted until a handler takes them, and from then on as what it works with,
    until it takes the next message or ends. What it sends is counted while the peer does not read.
    """

    __slots__ = (
        "account",
        "has_large_message",
        "has_reservation",
        "received_charge",
        "sending_charge",
        "taken_charge",
    )

    account: ConnectionAccount | None
    received_charge: int
    """Bytes that wait to be taken, as they are counted."""
    taken_charge: int
    """Bytes that the handler works with."""
    sending_charge: int
    """Bytes that wait until the peer reads, or that the handler is expected to send."""
    has_reservation: bool
    """There is room for the message under way, which does not fit into the window."""
    has_large_message: bool
    """Such a message has come whole and has not been taken yet."""

    def charge_to(self, account: ConnectionAccount | None) -> None:
        """Have the call counted in another ledger than its connection's, before anything is."""
        if self.account is not None and account is not None:
            self.account.peer_account.active_calls -= 1
            account.peer_account.active_calls += 1
            self.account = account

    def release_charges(self) -> None:
        """The stream is gone, and nothing of it counts any more."""
        ledger, self.account = self.account, None
        if ledger is None:
            return
        ledger.peer_account.active_calls -= 1
        working = self.taken_charge + self.sending_charge
        if not (working or self.received_charge or self.has_reservation or self.has_large_message):
            return
        # Not only when the garbage collector finds it: a failure and its traceback are a cycle.
        self.discard_received()
        self.taken_charge = self.sending_charge = 0
        ledger.peer_account.large_messages -= self.has_reservation + self.has_large_message
        self.has_reservation = self.has_large_message = False
        ledger.peer_account.remove_reservation_waiter(self)
        if self.received_charge:
            ledger.add_received(-self.received_charge)
        ledger.add_working(-working)
        ledger.peer_account.wake_waiters()

    def charge_received(self, size: int) -> str:
        """Count what waits to be taken; gives the budget that was used up by more, "" for none."""
        ledger, change = self.account, size - self.received_charge
        if ledger is None or not change:
            return ""
        self.received_charge = size
        ledger.add_received(change)
        return ledger.exceeded_receive_budget() if change > 0 else ""

    def charge_taken(self, size: int) -> None:
        """Count a message that the handler takes, until `release_taken`."""
        if self.account is not None and size > MIN_CHARGED_SIZE:
            self.taken_charge = size
            self.account.add_working(self.taken_charge)

    def release_taken(self) -> None:
        """The handler is through with the message that it took last."""
        charge, self.taken_charge = self.taken_charge, 0
        if self.account is not None:
            self.account.add_working(-charge)

    def charge_sending(self, size: int) -> None:
        """Count bytes that the call is going to send, instead of what was counted before."""
        change = _COPIES_PER_REPLY * size - self.sending_charge
        if self.account is not None and change:
            self.sending_charge += change
            self.account.add_working(change)

    def charge_blocked_send(self, size: int) -> None:
        """Count bytes that have to wait until the peer reads.

        Raises ResourceExhaustedError if there are too many that do, except for those of a call
        that is the only one.
        """
        ledger = self.account
        if ledger is None or size <= MIN_CHARGED_SIZE:
            return
        self.charge_sending(size)
        budget = ledger.exceeded_work_budget(fraction=1.0)
        if budget and ledger.peer_account.working > self.sending_charge + self.taken_charge:
            self.charge_sending(0)
            text = f"replies that the caller does not read use up {budget}"
            raise purerpc.ResourceExhaustedError(text)

    # -- large messages ----------------------------------------------------------------------

    def reserve(self, size: int) -> bool:
        """Reserve room for a message that does not fit into the window.

        If there is none, `retry_reservation` is called when there may be. The only one of a peer is
        always given room, so that it may be larger than the budget.
        """
        ledger = self.account
        if ledger is None or self.has_reservation:
            return True
        account = ledger.peer_account
        if account.large_messages and (
            ledger.exceeded_receive_budget(size, fraction=0.25) or ledger.exceeded_work_budget()
        ):
            account.add_reservation_waiter(self)
            return False
        self.has_reservation = True
        account.large_messages += 1
        return True

    def complete_reservation(self) -> None:
        """The message has come whole, or the call has failed."""
        if self.account is not None and self.has_reservation:
            self.has_reservation = False
            self.account.peer_account.large_messages -= self.has_large_message
            self.has_large_message = True

    def release_reservation(self) -> None:
        """All large messages that have come were taken."""
        if self.account is not None and self.has_large_message:
            self.has_large_message = False
            self.account.peer_account.large_messages -= 1
            self.account.peer_account.wake_waiters()

    def discard_received(self) -> None:
        """Forget what no handler has taken."""
        raise NotImplementedError

    def retry_reservation(self) -> bool:
        """Go on if there is room now; false if there is not."""
        raise NotImplementedError
