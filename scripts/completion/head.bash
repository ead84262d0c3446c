# _wqfs_ask KIND [plain]: what wqfs itself says fits here, a word a line, as it must stand in the line; plain: not
# quoted, where bash does it.
_wqfs_ask() {
  local command=${COMP_WORDS[0]/#\~/$HOME} line=${COMP_LINE:0:COMP_POINT} word
  local typed=${line##*[[:space:]]} head=
  # What stands before the last = or : is no part of the word for readline.
  [[ $COMP_WORDBREAKS == *:* ]] && head=${typed%"${typed##*[=:]}"}
  while IFS=$'\t' read -r word _; do
    [[ -n $2 || ${COMP_WORDS[COMP_CWORD]} == [\'\"]* || $word != *[!A-Za-z0-9_@%+=:,./-]* ]] ||
      printf -v word %q "$word"
    printf '%s\n' "${word#"$head"}"
  done < <("$command" --complete "$1" --line "$line" 2>/dev/null)
}
_wqfs_ask_watch() { _wqfs_ask watch; }
_wqfs_ask_options() { _wqfs_ask options; }
_wqfs_ask_condition_name() { _wqfs_ask condition-name; }
_wqfs_ask_object() { _wqfs_ask object; }
# (The names of the next two tell shtab to quote what they give, as the names of files.)
_wqfs_file_or_scenario() { _wqfs_ask scenario plain; compgen -f -- "$1"; }
_wqfs_dir_or_mount() { _wqfs_ask mount plain; compgen -d -- "$1"; }
