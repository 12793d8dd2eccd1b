/* Click or Enter on a heading sorts its table: numbers by data-v, texts by themselves, missing ones last. */
document.querySelectorAll('th').forEach(function (th) {
    th.tabIndex = 0;
    function cellKey(row, column) {
        var cell = row.children[column], value = cell.getAttribute('data-v');
        return value === null ? cell.textContent.trim() : +value;
    }
    function sortByHeading() {
        var head = th.parentNode, body = head.parentNode.parentNode.tBodies[0];
        var column = [].indexOf.call(head.children, th);
        var rising = th.getAttribute('aria-sort') !== 'ascending';
        [].forEach.call(head.children, function (other) { other.removeAttribute('aria-sort'); });
        th.setAttribute('aria-sort', rising ? 'ascending' : 'descending');
        [].slice.call(body.rows).sort(function (a, b) {
            var x = cellKey(a, column), y = cellKey(b, column);
            if (x === '-' || y === '-') return (x === '-') - (y === '-');
            var numbers = typeof x === 'number' && typeof y === 'number';
            var order = numbers ? x - y : String(x).localeCompare(String(y));
            return rising ? order : -order;
        }).forEach(function (row) { body.appendChild(row); });
    }
    th.addEventListener('click', sortByHeading);
    th.addEventListener('keydown', function (event) {
        if (event.key === 'Enter') {
            event.preventDefault();
            sortByHeading();
        }
    });
});
