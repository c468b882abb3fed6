"""The memory that one call uses, charged to the account of its peer on a server."""

from __future__ import annotations

import attrs
import purerpc

from meshtrio.rpc.peer_accounts import ConnectionAccount

MIN_CHARGED_SIZE = 1024
"""Size of a message, in bytes, up to which it is not charged: every call costs as much."""
_COPIES_PER_REPLY = 2
"""Number of copies of a reply that waits: its bytes, and the object they were made from."""


@attrs.define(eq=False, repr=False, kw_only=True, weakref_slot=False)
class AccountedStream:
    """Charges an account while the stream is open; a client has no account.

    Received bytes are charged as received until the handler takes them, and then as working until
    it takes the next message or ends. Sent bytes are charged as working while the peer does not
    read them.
    """

    account: ConnectionAccount | None = None
    """The account that an open stream of a server is charged to."""
    received_charge: int = 0
    """Size of the messages that wait to be taken, as charged, in bytes."""
    reserved_charge: int = 0
    """The part of `received_charge` for which room was reserved, in bytes."""
    taken_charge: int = 0
    """Size of the message that the handler works with, as charged, in bytes."""
    sending_charge: int = 0
    """Size of data that is sent but not read, or expected to be sent, as charged, in bytes."""
    has_reservation: bool = False
    """Whether room is reserved for an incomplete message that does not fit into the window."""
    has_large_message: bool = False
    """Whether such a message is complete and has not been taken yet."""

    def charge_to(self, account: ConnectionAccount) -> None:
        """Charge another account than the connection's, before anything was charged."""
        if self.account is not None:
            self.account.peer_account.active_calls -= 1
        account.peer_account.active_calls += 1
        self.account = account

    def release_charges(self) -> None:
        """Release all charges: the stream is closed."""
        account, self.account = self.account, None
        if account is None:
            return
        account.peer_account.active_calls -= 1
        working = self.taken_charge + self.sending_charge
        if not (working or self.received_charge or self.has_reservation or self.has_large_message):
            return
        # Without waiting for the garbage collector: an exception and its traceback are a cycle.
        self.discard_received()
        self.taken_charge = self.sending_charge = 0
        account.peer_account.large_messages -= self.has_reservation + self.has_large_message
        self.has_reservation = self.has_large_message = False
        account.peer_account.reservation_waiters.pop(self, None)
        if self.received_charge:
            account.add_received(-self.received_charge, -self.reserved_charge)
            self.reserved_charge = 0
        account.add_working(-working)
        account.peer_account.wake_waiters()

    def charge_received(self, size: int) -> str:
        """Set the charge for waiting messages; describe the budget it exceeds, "" for none."""
        account, change = self.account, size - self.received_charge
        reserved = size if self.has_reservation or self.has_large_message else 0
        if account is None or not (change or reserved != self.reserved_charge):
            return ""
        account.add_received(change, reserved - self.reserved_charge)
        self.received_charge, self.reserved_charge = size, reserved
        return account.exceeded_receive_budget() if change > 0 else ""

    def charge_taken(self, size: int) -> None:
        """Charge a message that the handler takes, until `release_taken`."""
        if self.account is not None and size > MIN_CHARGED_SIZE:
            self.taken_charge = size
            self.account.add_working(size)

    def release_taken(self) -> None:
        """Release the charge of the message that the handler took last."""
        charge, self.taken_charge = self.taken_charge, 0
        if self.account is not None:
            self.account.add_working(-charge)

    def charge_sending(self, size: int) -> None:
        """Set the charge for data that the call is going to send."""
        change = _COPIES_PER_REPLY * size - self.sending_charge
        if self.account is not None and change:
            self.sending_charge += change
            self.account.add_working(change)

    def charge_blocked_send(self, size: int) -> None:
        """Charge data that waits until the peer reads.

        Raises ResourceExhaustedError if it exceeds a budget, and is not that of the only call.
        """
        account = self.account
        if account is None or size <= MIN_CHARGED_SIZE:
            return
        self.charge_sending(size)
        budget = account.exceeded_work_budget(fraction=1.0)
        if budget and account.peer_account.working > self.sending_charge + self.taken_charge:
            self.charge_sending(0)
            text = f"replies that the caller has not read exceed {budget}"
            raise purerpc.ResourceExhaustedError(text)

    # -- large messages ----------------------------------------------------------------------

    def reserve(self, size: int) -> bool:
        """Reserve room for a message that does not fit into the window; return whether it has it.

        Without room, `retry_reservation` is called when there may be some. The only large message
        of a peer always gets room, so that it may be larger than the budget.
        """
        account = self.account
        if account is None or self.has_reservation:
            return True
        peer_account = account.peer_account
        if peer_account.large_messages and (
            account.exceeded_reservation_budget(size) or account.exceeded_work_budget()
        ):
            peer_account.reservation_waiters[self] = None
            return False
        self.has_reservation = True
        peer_account.large_messages += 1
        return True

    def complete_reservation(self) -> None:
        """Note that the large message is complete, or that the call has failed."""
        if self.account is not None and self.has_reservation:
            self.has_reservation = False
            self.account.peer_account.large_messages -= self.has_large_message
            self.has_large_message = True

    def release_reservation(self) -> None:
        """Release the reservation: all large messages were taken."""
        if self.account is not None and self.has_large_message:
            self.has_large_message = False
            self.account.add_received(0, -self.reserved_charge)
            self.reserved_charge = 0
            self.account.peer_account.large_messages -= 1
            self.account.peer_account.wake_waiters()

    def discard_received(self) -> None:
        """Discard the messages that were not taken."""
        raise NotImplementedError

    def retry_reservation(self) -> bool:
        """Continue if there is room now; return False if there is not."""
        raise NotImplementedError
