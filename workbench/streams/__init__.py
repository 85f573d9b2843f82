"""Where rows come from and how they read: frames to rows, rows to text, sources that replay."""
