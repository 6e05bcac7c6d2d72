"""The places where objects lie: S3 and folders, behind one interface, and every key."""
