#!/usr/bin/env bash
# Breaks the code on purpose, one tests/mutations/*.patch at a time in a copy of what is checked in or changed here, and
# expects the simulation to notice. Prints a table; fails if a mutation passes or no longer applies.
#
#   tests/mutations.sh [NAME…]        SEEDS=600 for so many schedules each
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
copy=${COPY:-$root/target/mutations}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target} RUST_BACKTRACE=0
export SEEDS=${SEEDS:-600}

# By content, so that what did not change is not built again.
refresh() {
  local files
  files=$(git -C "$root" ls-files --cached --others --exclude-standard | LC_ALL=C sort)
  (cd "$copy" && find . -type f | sed 's|^\./||' | LC_ALL=C sort) | LC_ALL=C comm -13 <(printf '%s\n' "$files") - |
    while IFS= read -r file; do rm -f "$copy/$file"; done
  while IFS= read -r file; do
    [ -f "$root/$file" ] || continue
    cmp -s "$root/$file" "$copy/$file" || install -D -p -m 644 "$root/$file" "$copy/$file"
  done <<<"$files"
}
mkdir -p "$copy"
refresh
cd "$copy"

build() {
  cargo test --quiet -p tillsync-tests --test it --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/it-[^"]*\)".*/\1/p' | tail -1
}

passed=0
patches=("$@")
[ $# -gt 0 ] || patches=("$root"/tests/mutations/*.patch)
printf '%-28s %-8s %s\n' mutation outcome 'noticed as'
for patch in "${patches[@]}"; do
  name=$(basename "$patch" .patch)
  patch=$root/tests/mutations/$name.patch
  if ! patch --quiet --forward -p1 <"$patch" >/dev/null; then
    printf '%-28s %-8s\n' "$name" 'STALE'
    passed=1
    refresh
    continue
  fi
  binary=$(build || true)
  if [ -z "$binary" ]; then
    printf '%-28s %-8s\n' "$name" 'no build'
    passed=1
  elif said=$("$binary" sim:: --nocapture 2>&1); then
    printf '%-28s %-8s\n' "$name" PASSED
    passed=1
  else
    why=$(printf '%s\n' "$said" | awk '/panicked at/ { getline; line = $0 } /^SEED=/ { print line; exit }' | cut -c1-150)
    printf '%-28s %-8s %s\n' "$name" noticed "$why"
  fi
  patch --quiet --reverse -p1 <"$patch" >/dev/null
done
exit $passed
