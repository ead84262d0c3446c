# The words of the language of post, whose options are not the command's own.
_wqfs() {
  local line
  COMPREPLY=()
  if [[ ${COMP_WORDS[1]} == post && $COMP_CWORD -gt 1 && ${COMP_WORDS[COMP_CWORD-1]} != --mount ]]; then
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(_wqfs_ask post)
  fi
  if [[ ${#COMPREPLY[@]} = 0 ]]; then _shtab_wqfs "$@"; fi
  if [[ ${#COMPREPLY[@]} = 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null; fi
  return 0
}

complete -o bashdefault -F _wqfs wqfs
