"""The S3 door: the buckets over HTTP, for clients of S3, OSS and OBS. Translates, and decides nothing."""
