"""Tests with Linux's own initiator and device mapper, in a small virtual machine."""
