"""The scenarios that come with wqfs: `wqfs play --list`. Each has a page in docs/scenarios."""
