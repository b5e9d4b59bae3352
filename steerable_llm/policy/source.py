"""Where a model gets its policy from: a policy that stays, or a file that may change."""

import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

from steerable_llm.errors import InvalidInputError, SteerableError
from steerable_llm.policy.file import shortened
from steerable_llm.policy.policy import Policy, policy_path

_Stamp = tuple[int, int, int] | None


class PolicySource:
    """The policy at present. A file is read again when it was changed or replaced.

    A new file takes the place of the old policy whole or not at all: if it cannot be read, or a
    vector of it fits another model, the old policy stays and one warning says what is wrong.

    Args:
        given: A policy, the path of a policy file, or None.
        check: Called with a new policy before it is used; raises if it does not fit.

    Raises:
        InvalidInputError: It is neither a policy nor a path.
        SteerableError: The file cannot be used.
    """

    def __init__(
        self,
        given: Policy | str | os.PathLike[str] | None,
        check: Callable[[Policy], None],
    ) -> None:
        self._check = check
        self._path = None if isinstance(given, Policy | None) else policy_path(given)
        self._lock = threading.Lock()
        # Taken before the file is read: a change in between is then seen at the next request.
        self._stamp = self._stamp_now()
        policy = Policy.load(self._path) if self._path else given
        assert isinstance(policy, Policy | None), "a path was loaded just now"
        if policy is not None:
            check(policy)
        self._policy = policy

    def current(self) -> Policy | None:
        """Return the policy as the file has it now."""
        if self._path is not None and self._stamp_now() != self._stamp:
            self._reload(self._path)
        return self._policy

    def reload(self) -> Policy:
        """Read the file and its vectors again, changed or not.

        Raises:
            InvalidInputError: The policy is no file.
            SteerableError: The file cannot be used, and the policy read before stays.
        """
        if self._path is None:
            raise InvalidInputError(
                "the policy was not given as a file, so there is nothing to read again: give its "
                "path where the model is loaded"
            )
        with self._lock:
            stamp = self._stamp_now()
            policy = Policy.load(self._path)
            self._check(policy)
            self._policy, self._stamp = policy, stamp
        return policy

    def _reload(self, path: Path) -> None:
        with self._lock:
            stamp = self._stamp_now()
            if stamp == self._stamp:  # another thread has just done it
                return
            said = None
            try:
                policy = Policy.load(path)
                self._check(policy)
            except SteerableError as error:
                said = str(error)
            # Whatever else a file can bring about: a service goes on with what it has.
            except Exception as error:
                said = f"{type(error).__name__}: {shortened(' '.join(str(error).split()))}"
            else:
                self._policy = policy
            # Last, since readers that see the new stamp take the policy without the lock.
            self._stamp = stamp
        if said is not None:
            warnings.warn(
                f"the policy file has changed and cannot be used, so the policy read before "
                f"stays: {said}",
                stacklevel=2,
            )

    def _stamp_now(self) -> _Stamp:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        # The inode tells a file that took the other's place with its time and size.
        return found.st_mtime_ns, found.st_size, found.st_ino
