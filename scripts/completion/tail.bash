# What shtab does not see: the words of the language of post, whose options are not the command's own, and the form
# without the word mount.
_wqfs() {
  local line kind= before=${COMP_WORDS[COMP_CWORD-1]}
  COMPREPLY=()
  if [[ ${COMP_WORDS[1]} == post && $COMP_CWORD -gt 1 && $before != --mount ]]; then
    kind=post
  elif [[ $before == -o && " ${_shtab_wqfs_subparsers[*]} " != *" ${COMP_WORDS[1]} "* ]]; then
    kind=options
  fi
  if [[ -n $kind ]]; then
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(_wqfs_ask $kind)
  fi
  if [[ ${#COMPREPLY[@]} = 0 ]]; then _shtab_wqfs "$@"; fi
  if [[ ${#COMPREPLY[@]} = 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null; fi
  return 0
}

complete -o bashdefault -o default -F _wqfs wqfs
