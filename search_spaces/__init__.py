"""Search spaces: what can be chosen. One public class per file, named in jobs by the file."""
