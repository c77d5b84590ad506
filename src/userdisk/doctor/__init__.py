"""What `userdisk doctor` knows: which ways to a disk work here, and what is left over.

machine     what can be asked of a machine       drivers     kernel drivers: there or not
packages    which command installs what          checks      the table of checks
ways        the table of ways, and the verdict   fixes       doing what is safe
leftovers   what killed processes left
"""
