"""What tests of every folder share: free ports and real processes that end with the test."""
