"""On the Closed-Form of Flow Matching, arXiv 2506.03719: exact fields, memorization, EFM."""
