"""What a suite still has to do, and what that will cost."""
