# Completion of bioquant in bash: eval "$(bioquant completion bash)"
_bioquant() {
    local line="${COMP_LINE:0:COMP_POINT}" words typed before IFS=$' \t\n'
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    typed="${words[-1]}"
    mapfile -t COMPREPLY < <(bioquant completion words "${words[@]:1}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} == 1 && -z ${COMPREPLY[0]} ]] && COMPREPLY=()
    # bash replaces only what follows the last of its own word breaks.
    before="${typed%"${typed##*[=:]}"}"
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
}
complete -o nosort -F _bioquant bioquant
