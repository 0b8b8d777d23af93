if [ "$CHANGED" = yes ]; then
    say "done"
else
    say "nothing to change"
fi
