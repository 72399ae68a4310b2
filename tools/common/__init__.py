"""What several tools share: command lines, folders, data, statistics, pages."""
