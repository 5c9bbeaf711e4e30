"""The store: records of cells, leases, and studies, as files that are complete or absent."""
