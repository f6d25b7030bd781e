"""What a person says of answers: what is asked, the votes, their tally."""
