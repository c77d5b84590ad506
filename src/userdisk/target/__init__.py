"""The SCSI engine: runs commands against logical units; pure, ports drive it."""
