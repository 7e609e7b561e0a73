"""What files of trainers are made of: npz, tars and their members, and what is beside the rows of T5."""
