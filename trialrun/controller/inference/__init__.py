"""What a trained trial is for: loaded, evaluated, asked for predictions; nothing here trains."""
