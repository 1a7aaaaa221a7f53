"""The previous code against this code's schema and data: both run at once while a fleet is rolled."""
