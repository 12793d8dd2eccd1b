/* Tables sort and filter; pictures say what is pointed at, and their series can be switched off. */
(function () {
    'use strict';
    function all(selector, from) {
        return [].slice.call((from || document).querySelectorAll(selector));
    }
    function act(node, what) { /* by click, Enter and Space */
        node.tabIndex = 0;
        node.addEventListener('click', what);
        node.addEventListener('keydown', function (event) {
            if (event.key !== 'Enter' && event.key !== ' ') return;
            event.preventDefault();
            what(event);
        });
    }

    /* A heading sorts its table: numbers by data-v, texts by themselves, missing ones last. */
    function cellKey(row, column) {
        var cell = row.children[column], value = cell.getAttribute('data-v');
        return value === null ? cell.textContent.trim() : +value;
    }
    all('th').forEach(function (th) {
        act(th, function () {
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
        });
    });

    /* Long tables are searched: every word must be in the row. */
    all('figure.table').forEach(function (figure) {
        var table = figure.querySelector('table'), rows = [].slice.call(table.tBodies[0].rows);
        if (rows.length <= 20) return;
        var box = document.createElement('input'), caption = figure.querySelector('figcaption');
        box.type = 'search';
        box.className = 'filter';
        box.placeholder = 'show rows with … (' + rows.length + ')';
        box.setAttribute('aria-label', 'Filter ' + (caption ? caption.firstChild.textContent.trim() : 'this table'));
        box.addEventListener('input', function () {
            var words = box.value.toLowerCase().split(/\s+/);
            rows.forEach(function (row) {
                var text = row.textContent.toLowerCase();
                row.hidden = !words.every(function (word) { return text.indexOf(word) >= 0; });
            });
        });
        figure.insertBefore(box, figure.querySelector('.scroll'));
    });

    /* One bubble for all pictures. It stands beside the nearest mark: pointed at, touched, or gone to by the arrow keys. */
    var tip = document.createElement('div'), ring;
    tip.id = 'tip';
    tip.hidden = true;
    tip.setAttribute('role', 'status');
    document.body.appendChild(tip);

    function hide() {
        tip.hidden = true;
        if (ring && ring.parentNode) ring.parentNode.removeChild(ring);
    }
    function show(svg, mark) {
        ring = ring || document.createElementNS(svg.namespaceURI, 'circle');
        ring.setAttribute('class', 'ring');
        ring.setAttribute('r', 7);
        ring.setAttribute('cx', mark.x);
        ring.setAttribute('cy', mark.y);
        svg.appendChild(ring);
        tip.textContent = mark.text;
        tip.hidden = false;
        var at = ring.getBoundingClientRect(), page = document.documentElement.clientWidth;
        var left = Math.min(Math.max(4, at.left + at.width / 2 - tip.offsetWidth / 2), page - tip.offsetWidth - 4);
        var top = at.top - tip.offsetHeight - 5;
        if (top < 2) top = at.bottom + 5;
        tip.style.left = left + window.scrollX + 'px';
        tip.style.top = top + window.scrollY + 'px';
    }
    function visible(mark) { return !mark.group || !mark.group.classList.contains('off'); }

    all('.picture svg').forEach(function (svg) {
        var marks = all('.tips circle', svg).map(function (circle) {
            var title = circle.querySelector('title'), text = title.textContent;
            circle.removeChild(title); /* the browser's own bubble would come on top */
            return { x: +circle.getAttribute('cx'), y: +circle.getAttribute('cy'), text: text,
                     group: circle.closest('[data-s]') };
        });
        var current = -1;
        if (!marks.length) return;
        var caption = svg.parentNode.getAttribute('aria-label');
        svg.tabIndex = 0;
        svg.setAttribute('role', 'application');
        svg.setAttribute('aria-label', caption + ': ' + marks.length + ' marks, arrow keys read them');
        function pointed(event) {
            var matrix = svg.getScreenCTM(), best = -1, least = 40 * 40;
            marks.forEach(function (mark, i) {
                var x = mark.x * matrix.a + matrix.e - event.clientX, y = mark.y * matrix.d + matrix.f - event.clientY;
                if (visible(mark) && x * x + y * y < least) {
                    least = x * x + y * y;
                    best = i;
                }
            });
            current = best;
            if (best < 0) hide();
            else show(svg, marks[best]);
        }
        function step(by) {
            for (var i = 0; i < marks.length; i++) {
                current = (current + by + marks.length) % marks.length;
                if (visible(marks[current])) {
                    show(svg, marks[current]);
                    return;
                }
            }
        }
        svg.addEventListener('pointermove', pointed);
        svg.addEventListener('pointerdown', pointed);
        svg.addEventListener('pointerleave', hide);
        svg.addEventListener('blur', hide);
        svg.addEventListener('focus', function () {
            if (svg.matches(':focus-visible')) step(current < 0 ? 1 : 0);
        });
        svg.addEventListener('keydown', function (event) {
            var by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
            if (event.key === 'Escape') hide();
            if (!by || event.target !== svg) return;
            event.preventDefault();
            step(by);
        });
    });

    /* A line of the key switches its series. */
    all('.picture [data-s] > .key').forEach(function (key) {
        var svg = key.closest('svg'), series = key.parentNode.getAttribute('data-s');
        key.setAttribute('role', 'button');
        key.setAttribute('aria-pressed', 'true');
        act(key, function (event) {
            var off = key.getAttribute('aria-pressed') === 'true';
            event.stopPropagation();
            key.setAttribute('aria-pressed', String(!off));
            all('[data-s="' + series + '"]', svg).forEach(function (group) { group.classList.toggle('off', off); });
            hide();
        });
    });
}());
