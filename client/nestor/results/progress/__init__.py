"""How far a trial is: its bar, its pace, and its values in a small plot."""
