"""Campaigns: what is thrown at the commands by the thousand. Long runs by hand, short ones in `test_campaigns.py`."""
