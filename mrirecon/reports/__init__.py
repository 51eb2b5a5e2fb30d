"""What is made of scores for people: tables, comparisons of runs, and the HTML report."""
