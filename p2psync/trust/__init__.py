"""Who may say what is current: secret keys of this home, trusted keys of others, and the decision on each head."""

from p2psync.trust.keyring import Keyring
from p2psync.trust.policy import Floor, TrustEntry, TrustStore, accept, check_pattern

__all__ = ["Floor", "Keyring", "TrustEntry", "TrustStore", "accept", "check_pattern"]
