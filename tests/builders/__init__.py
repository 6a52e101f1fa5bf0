"""What makes the records, blocks, pools and databases that tests begin with."""
